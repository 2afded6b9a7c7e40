"""Optical flow: estimators, folders of flow files, gaps, resizing. Imports jax only for RAFT."""

from oclr_jax.flow.dis import DIS
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.flo import read_flo, write_flo
from oclr_jax.flow.folder import FlowFolder, flow_path
from oclr_jax.flow.gaps import gap_flows, stream_gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.flow.source import from_settings, open_estimator, open_source
from oclr_jax.flow.stream import FrameFlow, shot_flow, stream_flow

__all__ = [
    "DIS",
    "FlowEstimator",
    "FlowFolder",
    "FrameFlow",
    "flow_path",
    "from_settings",
    "gap_flows",
    "open_estimator",
    "open_source",
    "read_flo",
    "resize_flow",
    "shot_flow",
    "stream_flow",
    "stream_gap_flows",
    "write_flo",
]
