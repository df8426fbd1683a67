"""The actor: a service on libsegue alone that stays in whatever state a test wants to look at."""
