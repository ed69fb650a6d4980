"""A loop whose optimiser was given a filtered list of parameters: the keys never learn. The verbs in Python.

python examples/dead_key.py
"""

import torch

import attnscope
from attnscope.models.gpt import Gpt


def next_token_loss(logits, batch):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def make_case(steps=30):
    torch.manual_seed(0)
    model = Gpt(n_tokens=20, n_positions=16, d_model=32, n_heads=4)
    # Meant to leave out biases; ".key." was a leftover of an experiment.
    chosen = [value for name, value in model.named_parameters() if ".key." not in name]
    optimizer = torch.optim.AdamW(chosen, lr=1e-3)
    batches = [{"input_ids": torch.randint(0, 20, (8, 12)).sort(dim=1).values} for _ in range(4)]
    for step in range(steps):
        loss = next_token_loss(model(batches[step % 4]["input_ids"]), batches[step % 4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return attnscope.Case(model, batches, loss=next_token_loss, optimizer=optimizer, expects={"causal": True})


if __name__ == "__main__":
    case = make_case()
    print(attnscope.trace(case.model, case.batches[0]))
    diagnosis = attnscope.diagnose(case)
    print(diagnosis)
    attnscope.report(diagnosis, "dead_key.html")
    print("dead_key.html shows the same with pictures.")
