"""torchjd's published table, from model parameters through the engines to `.grad`."""

from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from torch import nn

from mtl_cli.encoders import Layout, use_layout
from mtl_cli.gradients import GradientEngine
from mtl_cli.sharing import HardSharing
from mtl_cli.weighting import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    NashMTL,
    PCGrad,
    UPGrad,
)

JACOBIAN = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
# J = [[-4, 1, 1], [6, 1, 1]]; from the table of torchjd's documentation.
TABLE = [
    # torchjd adds 1e-4 to the diagonal of the normalised Gramian in these two; ours is exact unless told to.
    (UPGrad(regularization=1e-4), [0.2929, 1.9004, 1.9004]),
    (DualProj(regularization=1e-4), [0.5563, 1.1109, 1.1109]),
    (CAGrad(c=0.5), [0.1835, 1.2041, 1.2041]),
    (IMTLG(), [0.0767, 1.0, 1.0]),
    (MGDA(), [0.0, 1.0, 1.0]),
    (PCGrad(), [0.5848, 3.8012, 3.8012]),
    (ConFIG(), [0.1588, 2.0706, 2.0706]),
    (AlignedMTL(), [0.2133, 0.9673, 0.9673]),
    (FairGrad(alpha=1.0), [0.0766, 0.9985, 0.9985]),
    (NashMTL(max_norm=1.0), [0.0542, 0.7061, 0.7061]),
]


class OneLayer(nn.Module):
    """A shared linear layer of three weights whose gradient is a row of the Jacobian for each task's one token."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(3, 1, bias=False)
        self.tasks = {"a": None, "b": None}
        self.sharing = HardSharing()
        self.encoder = SimpleNamespace(
            blocks=[], packed=True, parameters=self.shared.parameters, extras=nn.ModuleDict()
        )

    def parameter_partition(self):
        return {"shared.weight": "shared"}

    def task_specific_parameters(self, task):
        return []


class LinearLosses:
    """The loss of a task is its row of the Jacobian times the weights."""

    device = torch.device("cpu")
    auxiliary = MappingProxyType({})

    def __init__(self, model):
        self.model = model

    def objective(self, losses):
        return losses.sum()

    def normalizers(self, micro_batches, tasks):
        return {}

    def __call__(self, step, normalizers):
        layout = Layout.from_lengths({task: torch.ones(1).long().numpy() for task in step}, packed=True)
        rows = torch.stack([JACOBIAN["ab".index(task)] for task in step])
        with use_layout(layout):
            outputs = self.model.shared(rows[None])[0, :, 0]
        return dict(zip(step, outputs.unbind(), strict=True))


@pytest.mark.parametrize("engine", ["segmented", "per_task"])
@pytest.mark.parametrize(("weighting", "expected"), TABLE, ids=lambda value: type(value).__name__)
def test_the_published_update_ends_up_in_the_gradient_of_the_shared_weights(weighting, expected, engine):
    model = OneLayer()
    weighting.engine = engine
    weighting.start(["a", "b"], seed=0)
    GradientEngine(model, weighting, LinearLosses(model)).step([[{"a": None, "b": None}]])
    assert model.shared.weight.grad[0].tolist() == pytest.approx(expected, abs=1e-4)
