"""A Hugging Face classifier whose training loop forgets to pass the attention mask: padding is attended.

attnscope check examples/forgotten_mask.py:make_case --html report.html
"""

import torch
from transformers import BertConfig, BertForSequenceClassification

from attnscope import Case


def make_case():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, pad_token_id=0,
    )
    ids = torch.randint(1, 100, (8, 12))
    for row, length in enumerate((12, 9, 7, 12, 5, 10, 12, 8)):
        ids[row, length:] = 0
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.randint(0, 2, (8,))}

    def forward(model, batch):
        return model(input_ids=batch["input_ids"], labels=batch["labels"])  # attention_mask is not passed

    return Case(
        BertForSequenceClassification(config), [batch], forward=forward, expects={"padding_mask": "attention_mask"}
    )
