"""Weightings: from the losses of a step to gradients."""

from mtl_cli.weighting.aligned_mtl import AlignedMTL
from mtl_cli.weighting.cagrad import CAGrad
from mtl_cli.weighting.conflict_free import ConFIG
from mtl_cli.weighting.cosmos import COSMOS
from mtl_cli.weighting.cr_mogm import CRMOGM
from mtl_cli.weighting.db_mtl import DBMTL
from mtl_cli.weighting.dualproj import DualProj
from mtl_cli.weighting.dwa import DWA
from mtl_cli.weighting.equal import Equal
from mtl_cli.weighting.excess_mtl import ExcessMTL
from mtl_cli.weighting.fairgrad import FairGrad
from mtl_cli.weighting.famo import FAMO
from mtl_cli.weighting.geometric import GeometricMean
from mtl_cli.weighting.graddrop import GradDrop
from mtl_cli.weighting.gradient_weighting import (
    AverageWeighting,
    CoordinateWeighting,
    GradientWeighting,
    GramianWeighting,
    SquaresWeighting,
)
from mtl_cli.weighting.gradnorm import GradNorm
from mtl_cli.weighting.gradvac import GradVac
from mtl_cli.weighting.imtl_g import IMTLG
from mtl_cli.weighting.imtl_l import IMTLL
from mtl_cli.weighting.krum import Krum
from mtl_cli.weighting.mgda import MGDA
from mtl_cli.weighting.moco import MoCo
from mtl_cli.weighting.modo import MoDo
from mtl_cli.weighting.nash_mtl import NashMTL
from mtl_cli.weighting.pbi import PBI
from mtl_cli.weighting.pcd import PCD
from mtl_cli.weighting.pcgrad import PCGrad
from mtl_cli.weighting.rlw import RLW
from mtl_cli.weighting.scale_invariant import ScaleInvariant
from mtl_cli.weighting.sdmgrad import SDMGrad
from mtl_cli.weighting.static import Static
from mtl_cli.weighting.stch import STCH
from mtl_cli.weighting.trimmed_mean import TrimmedMean
from mtl_cli.weighting.uncertainty import UncertaintyWeighting
from mtl_cli.weighting.upgrad import UPGrad
from mtl_cli.weighting.weighting import LossWeighting, StepInfo, Weighting, check_fit

__all__ = [
    "COSMOS",
    "CRMOGM",
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "PBI",
    "PCD",
    "RLW",
    "STCH",
    "AlignedMTL",
    "AverageWeighting",
    "CAGrad",
    "ConFIG",
    "CoordinateWeighting",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "FairGrad",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientWeighting",
    "GramianWeighting",
    "Krum",
    "LossWeighting",
    "MoCo",
    "MoDo",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "ScaleInvariant",
    "SquaresWeighting",
    "Static",
    "StepInfo",
    "TrimmedMean",
    "UPGrad",
    "UncertaintyWeighting",
    "Weighting",
    "check_fit",
]
