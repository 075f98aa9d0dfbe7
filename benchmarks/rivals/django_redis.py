"""django-redis: Django's cache over Redis, used as its documentation does: get_or_set; pickled."""

from __future__ import annotations

from django.conf import settings
from django.core.cache import caches

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def stored(function: Function, url: str) -> Function:
    if not settings.configured:
        backend = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        settings.configure(CACHES={"default": backend})
    cache = caches["default"]

    def cached(user_id: int) -> object:
        return cache.get_or_set(f"user:{user_id}", lambda: function(user_id), TTL_SECONDS)

    return cached


RIVAL = Rival(distribution="django-redis", features=("ttl", "threads"), stored=stored)
