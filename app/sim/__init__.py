"""Simulated SGLang and vLLM workers: the wire and the timing of the engines, no model."""

from app.sim.config import Role, SimConfig
from app.sim.counters import Counters, Seen
from app.sim.faults import Cut, Fault, FaultBook, FaultKind
from app.sim.server import SglangSim, sim_pair
from app.sim.text import chat_mark, mark_of
from app.sim.vllm_config import ServerTls, VllmConfig
from app.sim.vllm_counters import VllmCounters, VllmSeen
from app.sim.vllm_faults import VllmFault, VllmFaultBook, VllmFaultKind
from app.sim.vllm_server import VllmSim, vllm_pair
from app.sim.vllm_tokens import ByteTokenizer, SimTokenizer

__all__ = [
    "ByteTokenizer",
    "Counters",
    "Cut",
    "Fault",
    "FaultBook",
    "FaultKind",
    "Role",
    "Seen",
    "ServerTls",
    "SglangSim",
    "SimConfig",
    "SimTokenizer",
    "VllmConfig",
    "VllmCounters",
    "VllmFault",
    "VllmFaultBook",
    "VllmFaultKind",
    "VllmSeen",
    "VllmSim",
    "chat_mark",
    "mark_of",
    "sim_pair",
    "vllm_pair",
]
