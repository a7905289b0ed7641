"""Flags of SMG 1.13 that have no counterpart here yet: accepted with a warning, never obeyed.

So that a command line written for SMG starts. The number of values each flag takes is what
SMG's own parser takes, so that nothing of them is mistaken for something else.

Source: ``smg`` 1.13.0, ``router_args.RouterArgs.add_cli_args``; ``_NATIVE`` is from the native
binary's parser of the 1.9.0 snapshot.
"""

from __future__ import annotations

_NO_VALUE = """
control-plane-audit-enabled disable-load-monitoring
disable-tokenizer-autoload disable-worker-overload-protection
dp-minimum-tokens-scheduler enable-igw enable-mesh enable-rl enable-wasm
epd-disaggregation log-mm-timing mm-allow-private-media-hosts mm-pixel-rdma
oracle-external-auth priority-scheduler-enabled routing-key-override
sticky-sessions tenant-rate-limit-enabled tokenizer-cache-enable-l0 tokenizer-cache-enable-l1
trust-tenant-header upstream-http2 worker-overload-protection worker-overload-shed
"""

_ONE_VALUE = """
backend block-size cache-boundaries cache-index
cache-ttl-secs balance-token-usage-threshold overload-token-usage-threshold
discovery-check-interval-secs discovery-file discovery-provider encode-policy
eviction-interval-secs health-check-port history-backend
history-memory-max-items history-memory-max-responses history-memory-retention-secs
jemalloc-prof-dir job-queue-capacity job-queue-concurrency
jwt-audience jwt-issuer jwt-jwks-uri kv-connector-annotation kv-engine-id-annotation kv-index
least-load-default-throughput least-load-kv-pressure-weight least-load-max-waiting-requests
least-load-mean-prefill-tokens load-monitor-interval log-dir max-background-responses
max-buffered-request-bytes max-tree-size mcp-config-path
mesh-advertise-host mesh-host mesh-port mesh-server-name mesh-tls-ca-cert mesh-tls-cert
mesh-tls-key mm-allowed-media-domains mm-per-request-image-limit mm-pixel-cache-mb mm-processing
model multimodal-max-inflight-bytes multimodal-shm-min-bytes
multimodal-tensor-transport oracle-connect-descriptor oracle-password oracle-pool-max
oracle-pool-min oracle-pool-timeout-secs oracle-tns-alias oracle-username oracle-wallet-path
overlap-decay parser pd-admission-wait-secs postgres-db-url
postgres-op-timeout-secs postgres-pool-max power-of-two-load-metric
prefill-max-inflight-requests-per-worker
priority-scheduler-config priority-scheduler-default-max-class
priority-scheduler-tenant-metric-top-n queue-size queue-timeout-secs
rdma-listen-ip rdma-slot-ttl-s redis-op-timeout-secs redis-pool-max redis-retention-days redis-url
rl-control-timeout-secs rl-fanout-concurrency schema-config selection-accounting-ttl-ms
selection-policy selection-temperature sticky-key-idle-secs storage-hook-wasm-path
tenant-header-name tenant-rate-limit-config
tokenizer-cache-l0-max-entries tokenizer-cache-l0-max-memory
worker-overload-token-usage worker-overload-waiting-requests worker-stale-secs worker-stall-secs
worker-startup-check-interval worker-startup-delay worker-warmup-blocks
worker-warmup-divert-every worker-warmup-secs worker-warmup-share worker-warmup-thin-ratio
worker-wedge-secs zmq-engine-count
"""

_MANY_VALUES = """
encode
encode-selector jwt-role-mapping mesh-peer-urls prometheus-duration-buckets
request-id-headers router-selector routing-key-headers storage-context-headers
"""

_NATIVE_NO_VALUE = "engine-metrics"
_NATIVE_ONE_VALUE = "eviction-interval runtime-worker-threads"

SMG_ONLY_FLAGS: dict[str, int | str] = {
    **{f"--{name}": 0 for name in (_NO_VALUE + _NATIVE_NO_VALUE).split()},
    **{f"--{name}": 1 for name in (_ONE_VALUE + _NATIVE_ONE_VALUE).split()},
    **{f"--{name}": "*" for name in _MANY_VALUES.split()},
}
"""Values each flag takes, in argparse's terms."""
