"""How a network is run over a whole volume."""

from spoco_bundle.inferers.halo_window import HaloWindowInferer

__all__ = ["HaloWindowInferer"]
