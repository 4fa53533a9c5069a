"""A client for Blackhole's events.

It reconnects and resumes. Each binding's events arrive in order, without loss or duplicates; if that is impossible, it
tells of a gap.
"""

from .client import BlackholeClient
from .watch import BlackholeError, Watch

__all__ = ["BlackholeClient", "BlackholeError", "Watch"]
__version__ = "0.1.0"
