"""Measurements that the documents quote. Each script writes JSON into results/; `tables.py` turns it into the tables in docs/."""
