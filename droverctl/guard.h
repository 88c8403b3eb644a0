/* guard.h - a scoreboard file that is cut while we read it ends the program politely. */
#ifndef DROVER_DROVERCTL_GUARD_H
#define DROVER_DROVERCTL_GUARD_H

/*
 * Reading a page of a mapped file beyond its present end raises SIGBUS, and no check can come
 * first.  From now on that prints one line on standard error and exits with
 * EXIT_STATUS_FAILED.
 */
void guard_install(void);

/* From now on it also puts the terminal back as it is at this moment. */
void guard_keep_terminal(void);

#endif
