"""Who pays for a leg that failed: the one table, for SGLang and for vLLM.

Only the worker of the leg that failed is looked at here; the other leg is ended, and its worker
neither pays nor is credited. The client gets status (``own``: the worker's) and ``error.code`` of
the row before the first byte; after it one error event with the same object, and no ``[DONE]``.

=====================================  ======================  =======  ======  =================
what the leg's worker did              client gets             charged  probed  besides
=====================================  ======================  =======  ======  =================
refuse the connection                  502 worker_unreachable  yes      yes     out at once
not be connected in time               504 connect_timeout     yes      yes     out at once
find the gateway out of open files     503 gateway_full        no       no
answer 4xx, other than 429             own worker_rejected     no       no
answer 429                             429 worker_rejected     no       yes     used last a while
answer 503, its last probe was good    503 worker_rejected     no       yes     used last a while
answer 503, its last probe failed      503 worker_rejected     yes      yes
answer any other 5xx                   own worker_rejected     yes      yes
answer a status that is none           502 worker_rejected     yes      yes
cut or reset its answer, send garbage  502 worker_broken       yes      yes
end the generation by abort            502 generation_aborted  yes      yes
leave no handoff, if that is wanted    502 handoff_missing     yes      yes     vLLM
take too long to be reached            502 handoff_stale       yes      yes     vLLM, decode
say nothing for too long               504 worker_timeout      yes      yes
not end before it was removed          503 worker_removed      no       no      ended by us
=====================================  ======================  =======  ======  =================

Where it is not known whose failure it was, both workers are probed first, and what is charged is
the leg that does not answer; prefill, if neither does:

* SGLang's report of a failed handover, and a silence of SGLang's that both legs may be behind:
  if both answer, nobody is charged and no leg is named.
* vLLM's failure to load the KV cache (502 ``kv_load_failed``): if both answer, it was decode.

Nobody is charged for a client that left, for a request that was longer under way than
``--total-timeout-secs`` allows (504 ``request_timeout``; the leg that was awaited is named), and
for a prefill that failed when decode had the KV cache already: that one is only probed.
"""

from __future__ import annotations

from typing import NamedTuple

from app.errors import GatewayFull, LegEnded, LegRejected, LegUnreachable, WorkerError


class Charge(NamedTuple):
    """What a failure means for the worker that is to blame.

    Attributes:
        is_failure: Its breaker counts it.
        is_probed: It is asked at once how it is.
        is_full: It has no room: others are preferred for a while.
        is_cut_off: It cannot be reached: out until it answers again.
    """

    is_failure: bool = False
    is_probed: bool = False
    is_full: bool = False
    is_cut_off: bool = False


_NOBODY = Charge()
_FULL = Charge(is_probed=True, is_full=True)
_FAILED = Charge(is_failure=True, is_probed=True)
_CUT_OFF = Charge(is_failure=True, is_probed=True, is_cut_off=True)


def charge_of(error: WorkerError, *, is_sick: bool) -> Charge:
    """Reads the table.

    Args:
        error: The failure, once it is known whose it was.
        is_sick: The worker's last probe failed.
    """
    if isinstance(error, LegUnreachable):
        return _NOBODY if error.code == GatewayFull.code else _CUT_OFF
    if isinstance(error, LegEnded):
        return _NOBODY
    if not isinstance(error, LegRejected):
        return _FAILED
    if error.status == 429 or (error.status == 503 and not is_sick):
        return _FULL
    return _NOBODY if error.status < 500 else _FAILED
