"""Write-behind: writes that readers see at once, and that reach the database in batches, later.

``behind.py`` is what users hold; ``entering.py`` brings a write into the journal and the tiers;
``worker.py`` takes it out again and hands it to the user's writer; ``bell.py`` says when;
``overlay.py`` lets readers see what is still on its way. The journals are in ``tiers/journal.py``.
"""
