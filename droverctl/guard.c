/* guard.c - a scoreboard file that is cut while we read it ends the program politely. */
#include "droverctl/guard.h"

#include <signal.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

#include "droverctl/view.h"

static struct termios terminal;
static volatile sig_atomic_t terminal_kept;

/* Answers are printed whole or not at all (see view.h), so there is nothing to undo. */
static void on_sigbus(int number)
{
    static const char text[] =
        "droverctl: the scoreboard file was cut short while it was being read\n";

    /* Leaves the alternate screen, shows the cursor. */
    static const char leave[] = "\x1b[?1049l\x1b[?25h";

    (void)number;
    if (terminal_kept != 0) {
        (void)tcsetattr(STDOUT_FILENO, TCSANOW, &terminal);
        (void)!write(STDOUT_FILENO, leave, sizeof(leave) - 1);
    }
    if (write(STDERR_FILENO, text, sizeof(text) - 1) == -1)
        _exit(EXIT_STATUS_FAILED);
    _exit(EXIT_STATUS_FAILED);
}

void guard_install(void)
{
    const struct sigaction action = {.sa_handler = on_sigbus};

    (void)sigaction(SIGBUS, &action, NULL);
}

void guard_keep_terminal(void)
{
    terminal_kept = tcgetattr(STDOUT_FILENO, &terminal) == 0;
}
