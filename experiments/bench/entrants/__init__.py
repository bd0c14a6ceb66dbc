"""Programs that do the same rounds, each in its own way, when `experiments.bench.contest` asks for one."""
