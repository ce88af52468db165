"""How many processes share one quota: slots handed out by Redis, by a database row, or inside one process.

`limiter` is what implements `ports.RateLimiter`; `slots` is the arithmetic, which `redis` has once more in Lua;
`redis`, `database` and `local` are the places where buckets are kept.
"""
