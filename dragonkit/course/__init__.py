"""What the notebooks share: pictures with words for those who cannot see them, and exercises that are checked by doing.

One module a notebook holds that notebook's exercises; :func:`show` and :func:`exercise` serve all of them.
"""

from dragonkit.course.exercise import ToDo, Wrong, called, exercise
from dragonkit.course.show import show

__all__ = ["ToDo", "Wrong", "called", "exercise", "show"]
