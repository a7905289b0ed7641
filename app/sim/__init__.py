"""Simulated SGLang workers: the wire and the timing of the real engine, no model."""

from app.sim.config import Role, SimConfig
from app.sim.counters import Counters, Seen
from app.sim.faults import Cut, Fault, FaultBook, FaultKind
from app.sim.server import SglangSim, sim_pair
from app.sim.text import chat_mark, mark_of

__all__ = [
    "Counters",
    "Cut",
    "Fault",
    "FaultBook",
    "FaultKind",
    "Role",
    "Seen",
    "SglangSim",
    "SimConfig",
    "chat_mark",
    "mark_of",
    "sim_pair",
]
