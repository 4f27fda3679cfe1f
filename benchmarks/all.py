"""All benchmarks in turn, then the tables. Each continues where an earlier run was stopped."""

from benchmarks import demo, grid, left_out, methods, overhead, tables

if __name__ == "__main__":
    for benchmark in (demo, overhead, left_out, methods, grid, tables):
        benchmark.main()
