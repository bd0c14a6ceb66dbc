"""Engines carry the server's messages to clients and aggregate the replies: in one process, in workers, or on Ray."""
