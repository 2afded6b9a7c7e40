"""Optical flow: estimators behind one signature, gaps, resizing, `.flo` files. Never loads jax."""

from oclr_jax.flow.dis import DIS, ESTIMATORS, PairEstimator, make_estimator
from oclr_jax.flow.flo import read_flo, write_flo
from oclr_jax.flow.folder import FlowFolder, flow_path
from oclr_jax.flow.gaps import gap_flows, stream_gap_flows
from oclr_jax.flow.resize import resize_flow

__all__ = [
    "DIS",
    "ESTIMATORS",
    "FlowFolder",
    "PairEstimator",
    "flow_path",
    "gap_flows",
    "make_estimator",
    "read_flo",
    "resize_flow",
    "stream_gap_flows",
    "write_flo",
]
