"""What travels between server and clients: parameters and tasks as Flower records."""
