"""The training loop, and faster versions of it for many clients that train side by side."""
