"""What a run says: metrics.jsonl, TensorBoard, the progress bar, tables, speed."""

from segjax.logs.environment import environment
from segjax.logs.meter import Meter
from segjax.logs.plan import plan_tables
from segjax.logs.table import class_table, detection_table, summary_table
from segjax.logs.writer import Logs, plain

__all__ = [
    "Logs",
    "Meter",
    "class_table",
    "detection_table",
    "environment",
    "plain",
    "plan_tables",
    "summary_table",
]
