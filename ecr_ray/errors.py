"""What a job tells its user in one sentence instead of a traceback."""


class UserError(Exception):
    """The job cannot go on for a reason that its user can mend; the message says how."""

    exit_code = 1
