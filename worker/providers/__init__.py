"""The way to the payment providers: one transport for all; per provider, its requests and what its answers mean."""
