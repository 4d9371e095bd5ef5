"""Arrays as the compiled passes take them."""

from typing import Any

import numpy.typing as npt


def fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as a view that cannot be written to.

    Arrow's arrays are like that and NumPy's are not, and numba compiles a function for each mix of them that it meets:
    the sequence judge for ten seconds, in the middle of a drain. So passes are given all that they only read like this.
    """
    view = array.view()
    view.flags.writeable = False
    return view
