"""Readers of every table that users bring: CSV, TSV, Parquet, JSON Lines, Excel and COCO."""
