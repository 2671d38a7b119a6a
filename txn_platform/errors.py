"""The one error that is for users: something they can mend, said in one message.

Bugs are not of this kind: they keep their own types and their tracebacks.
"""


class UserError(Exception):
    """What was wrong, where, and what to do about it, in one sentence or two."""
