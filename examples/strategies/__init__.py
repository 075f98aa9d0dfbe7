"""The five strategies over one real table, side by side.

Run them by ``python -m examples.strategies``, or some of them: ``python -m examples.strategies
write-behind``; they need the extras ``demo`` and ``sqlalchemy``. Each strategy is one short file.
What they are for, and what each of them promises where something fails: docs/strategies.md.
"""
