"""The limiter of creates without a database."""

from server.limits.rates import RateLimiter, RateLimitResult
from server.model_request import UserId


class LocalRates:
    """The methods of `SharedRateLimiter` that the service calls, for one instance."""

    def __init__(self, per_minute: int, *, burst: int | None) -> None:
        self._limiter = RateLimiter("create", per_minute, burst=burst)

    async def check(self, user_id: UserId) -> RateLimitResult | None:
        return self._limiter.check(user_id)

    async def reserve(self, user_id: UserId) -> float:
        return self._limiter.reserve(user_id)

    async def refund(self, user_id: UserId) -> None:
        self._limiter.refund(user_id)
