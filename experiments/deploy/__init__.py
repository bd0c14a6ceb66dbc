"""Deployment on real devices: a SuperLink with TLS, and a SuperNode with a key on each device."""
