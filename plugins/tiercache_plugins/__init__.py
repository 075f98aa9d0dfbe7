"""First-party plugins and integrations. They import only public names of tiercache.

``tiercache_plugins.sqlalchemy``: invalidate after a transaction has committed.
"""
