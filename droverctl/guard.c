/* guard.c - a scoreboard file that is cut while we read it ends the program politely. */
#include "droverctl/guard.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "droverctl/view.h"

/* Answers are printed whole or not at all (see view.h), so there is nothing to undo. */
static void on_sigbus(int number)
{
    static const char text[] =
        "droverctl: the scoreboard file was cut short while it was being read\n";

    (void)number;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) == -1)
        _exit(EXIT_STATUS_FAILED);
    _exit(EXIT_STATUS_FAILED);
}

void guard_install(void)
{
    const struct sigaction action = {.sa_handler = on_sigbus};

    (void)sigaction(SIGBUS, &action, NULL);
}
