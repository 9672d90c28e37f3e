"""Readers of sources and tables: CSV, TSV, Parquet, JSON Lines, Excel, COCO and Kaggle tasks."""
