from . import bench_machine
