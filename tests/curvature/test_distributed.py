"""Two processes give what one gives, to rounding, and the same numbers as each other, to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnscope.curvature.distributed import AcrossProcesses, shared_hessian
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.operator import Probes
from attnscope.errors import CaseError
from curvature.one_of_several import (
    model_and_batches,
    of_perceptron,
    one_process,
    perceptron,
    perceptron_loss,
    sharpness_seen,
)
from reference.curvature_cases import tiny_batch, tiny_blocks, tiny_loss

SCRIPT = Path(__file__).with_name("one_of_several.py")


@pytest.fixture(scope="module", params=[2, 3])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    world = request.param
    running = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), str(world), folder / "meeting", folder / f"{rank}.pt"])
        for rank in range(world)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * world
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_several_processes_give_what_one_gives(together, dtype, tolerance):
    expected = one_process(dtype)
    for rank in together:
        found = rank[str(dtype)]
        for key in ("norms", "traces", "tops"):
            scale = float(expected[key].abs().max())
            torch.testing.assert_close(found[key], expected[key], rtol=tolerance, atol=tolerance * scale)
        for key in ("product", "pruned"):
            assert found[key].keys() == expected[key].keys()
            scale = max(float(vector.abs().max()) for vector in expected[key].values())
            for name, vector in expected[key].items():
                torch.testing.assert_close(found[key][name], vector, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.slow
def test_all_processes_give_the_same_bits_from_different_pieces(together):
    first = together[0]
    pieces = [rank[f"pieces {torch.float64}"] for rank in together]
    assert sorted(sum(pieces, ())) == list(range(3))
    for other in together[1:]:
        for key in ("norms", "traces", "tops"):
            assert torch.equal(first[str(torch.float32)][key], other[str(torch.float32)][key])
        for name, vector in first[str(torch.float32)]["product"].items():
            assert torch.equal(vector, other[str(torch.float32)]["product"][name])


@pytest.mark.slow
def test_a_single_batch_is_cut_for_all(together):
    model, _ = model_and_batches()
    alone = Hessian(model, [tiny_batch(7)], tiny_loss, tiny_blocks(model), dtype=torch.float64)
    expected = alone.matvec({"L0.Q": Probes(alone, 5).gaussian("L0.Q", 0)})
    for rank in together:
        assert rank["n cut"] == len(together)
        assert "processes have 1 pieces of data" in rank["refused"]
        for name, vector in expected.items():
            torch.testing.assert_close(rank["cut"][name], vector, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_tensor_parallel_weights_are_looked_through(together):
    expected = of_perceptron(*perceptron())
    for rank in together:
        assert rank["spread"] == "DTensor"
        found = rank["tensor parallel"]
        for key in ("product", "gradient"):
            for name, vector in expected[key].items():
                torch.testing.assert_close(found[key][name], vector, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["tops"], expected["tops"], rtol=1e-4, atol=1e-6)
        assert "spread over devices" in rank["not checked"]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["fsdp", "fsdp rounded"])
def test_fully_sharded_models_give_what_one_process_gives(together, policy):
    expected = one_process(torch.float64)
    for rank in together:
        found = rank[policy]
        for key in ("norms", "traces", "tops"):
            scale = float(expected[key].abs().max())
            torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10 * scale)
        for key in ("product", "pruned"):
            for name, vector in expected[key].items():
                torch.testing.assert_close(found[key][name], vector, rtol=1e-10, atol=1e-10 * float(vector.abs().max()))
        assert torch.equal(found["norms"], together[0][policy]["norms"])


@pytest.mark.slow
def test_fully_sharded_models_go_on_as_before(together):
    for rank in together:
        assert rank["fsdp"]["as before"]
        assert rank["fsdp"]["still sharded"]


@pytest.mark.slow
def test_fully_sharded_by_another_method_and_with_its_optimiser(together):
    model, batch, halves = perceptron()
    alone = Hessian(model, [batch], perceptron_loss, halves, dtype=torch.float64)
    expected = alone.matvec({"upper": Probes(alone, 1).gaussian("upper", 0)})
    seen = sharpness_seen(lambda module: module)
    for rank in together:
        for name, vector in expected.items():
            torch.testing.assert_close(rank["fsdp method"][name], vector, rtol=1e-10, atol=1e-12)
        # The step before it was made in float32, its gradient added up in another order.
        assert rank["fsdp seen"] == pytest.approx(seen, rel=1e-4)


@pytest.mark.slow
def test_models_sharded_twice_are_refused_with_the_way_out(together):
    assert all("sharded twice" in rank["fsdp twice"] for rank in together if "fsdp twice" in rank)


def test_a_model_that_computes_with_other_tensors_is_refused():
    class Hidden(torch.nn.Linear):
        def forward(self, inputs):
            return inputs @ self.weight.detach().clone().requires_grad_(True).T

    with pytest.raises(CaseError, match="other tensors than those it shows"):
        Hessian(Hidden(4, 2), [torch.randn(3, 4)], lambda m, b: m(b).square().mean())


def test_without_a_process_group():
    model, batches = model_and_batches()
    with pytest.raises(CaseError, match="launch with torchrun"):
        shared_hessian(model, batches, tiny_loss)
    with pytest.raises(CaseError, match="launch with torchrun"):
        AcrossProcesses(Hessian(model, batches, tiny_loss))
