"""A run's directory, and a sweep's: the only place that knows their files.

`layout` names them, `directory` knows by a manifest what they must hold, `lock` lets one process write at a time,
`rows` and `results` read and write the rows that every number is a query on, `summary` puts the record together, and
`find` collects runs.
"""
