"""First-party plugins of tiercache.

Empty in this release: the package is here so that its name belongs to this
distribution. Plugins that live here import only the public names of ``tiercache``.
"""
