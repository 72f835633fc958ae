"""What gRPC does by itself for a client of several servers: calls in turn, and again where a server is lost.

The servers are the addresses of the target: all those that a name has (`dns:///consort-servers:8001`), or a list
(`ipv4:10.0.0.1:8001,10.0.0.2:8001`). With one address nothing is different but the retries.

See gRFC A6 (retries) and grpc/service_config/service_config.proto.
"""

from __future__ import annotations

import json

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "consort.v1.Classifier"}],  # every call of it only asks
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    # No server, or one that stops. One that is overloaded says so to the caller instead.
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # Fifty retries, then one for ten calls that are answered: what is down is not asked four times as much.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)
"""Value of a channel's option `grpc.service_config`."""
