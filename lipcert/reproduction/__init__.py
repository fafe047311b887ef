"""The papers' tables, trained row by row, beside what was published."""
