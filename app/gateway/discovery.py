"""Builds the discovery of workers among pods, where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.settings import Settings, SettingsError
from app.upstream.scheme_probe import find_scheme
from app.workers.discovery import Discovery
from app.workers.drain import Drain
from app.workers.pods import PodRules
from app.workers.registry import Registry
from app.workers.url_guard import UrlGuard
from app.workers.worker import Role

if TYPE_CHECKING:
    from app.upstream.kubernetes_pods import KubernetesPods


@dataclass(frozen=True, slots=True)
class PodDiscovery:
    """The discovery, and the connection to the cluster that it asks."""

    loop: Discovery
    api: KubernetesPods

    async def run(self) -> None:
        """Follow the pods until cancelled."""
        try:
            await self.loop.run()
        finally:
            await self.api.aclose()


def build_discovery(
    settings: Settings, registry: Registry, drain: Drain, guard: UrlGuard
) -> PodDiscovery | None:
    """Builds it; None: it was not asked for.

    Raises:
        SettingsError: The extra ``kubernetes`` is not installed.
    """
    if not settings.service_discovery:
        return None
    try:
        # Half a second and 40 MB that a gateway without discovery never needs.
        from app.upstream.kubernetes_pods import KubernetesPods  # noqa: PLC0415
    except ImportError as exc:
        raise SettingsError(
            f"--service-discovery: {exc.name} is missing; install tandem-gateway[kubernetes]."
        ) from None
    rules = pod_rules(settings)
    api = KubernetesPods(
        rules.common_selector(), settings.service_discovery_namespace, settings.kubeconfig
    )
    key = settings.api_key.get_secret_value() if settings.api_key else None
    loop = Discovery(api, rules, registry, drain, find_scheme, guard.check, key)
    return PodDiscovery(loop, api)


def pod_rules(settings: Settings) -> PodRules:
    """Returns which pods are workers."""
    given = {
        Role.PREFILL: settings.prefill_selector,
        Role.DECODE: settings.decode_selector,
        Role.REGULAR: settings.selector,
    }
    selectors = {
        role: dict(pair.split("=", 1) for pair in pairs) for role, pairs in given.items() if pairs
    }
    return PodRules(selectors, settings.service_discovery_port, settings.model_id_from or "")
