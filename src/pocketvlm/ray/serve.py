"""`build_app` makes an application of Ray Serve: `serve run pocketvlm.ray.serve:app model=nano`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from pocketvlm.ray.engine import engine_class, server_settings
from pocketvlm.ray.ingress import Ingress
from pocketvlm.ray.options import AppOptions

if TYPE_CHECKING:
    from ray.serve import Application


def build_app(arguments: Mapping[str, Any]) -> Application:
    """An application with replicas of one model behind one ingress. arguments: fields of `AppOptions`.

    Raises OptionError, naming argument, value and what is allowed.
    """
    options = AppOptions.of(arguments)
    server_settings(options)  # a wrong one is refused here, not by each replica
    low, high = options.pool
    scaling: dict[str, Any] = {"num_replicas": low}
    if low != high:
        policy = AutoscalingPolicy(
            policy_function="pocketvlm.ray.autoscaling:QueuedTokens",
            policy_kwargs={"target": options.target_queued_tokens},
        )
        scaling = {"autoscaling_config": AutoscalingConfig(min_replicas=low, max_replicas=high, policy=policy)}
    engine = (
        serve.deployment(engine_class(options.max_adapters))
        .options(
            name="engine",
            ray_actor_options={"num_cpus": options.num_cpus, "resources": dict(options.resources)},
            max_ongoing_requests=options.max_ongoing_requests,
            max_constructor_retry_count=3,  # a model that cannot be loaded is not there the twentieth time either
            graceful_shutdown_timeout_s=options.drain + 5,
            request_router_config=RequestRouterConfig(request_router_class="pocketvlm.ray.router.AffinityRouter"),
            **scaling,
        )
        .bind(options)
    )
    return (
        serve.deployment(Ingress)
        .options(
            name="ingress",
            ray_actor_options={"num_cpus": 0, "resources": dict(options.ingress_resources)},
            max_ongoing_requests=max(1000, 4 * high * options.max_ongoing_requests),
        )
        .bind(options, engine)
    )


app = build_app  # the name that `serve run pocketvlm.ray.serve:app` gives
