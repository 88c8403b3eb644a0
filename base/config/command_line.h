/*
 * command_line.h - the long options of a program: its own, and those that drover-node and
 * drover-sim have in common:
 *
 *   --log-level LEVEL, --help or -h, --version or -V
 *
 * A program gives a table of its options and takes their values.  There are no arguments but
 * options.
 */
#ifndef DROVER_BASE_CONFIG_COMMAND_LINE_H
#define DROVER_BASE_CONFIG_COMMAND_LINE_H

#include <getopt.h>
#include <stdbool.h>

#include "base/attrs.h"
#include "base/log.h"

struct error;

/* The last entries of a program's table.  Its own options have numbers from 256 on. */
#define COMMAND_LINE_COMMON                                                        \
    {"log-level", required_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'}, \
        {"version", no_argument, NULL, 'V'},                                       \
    {                                                                              \
        NULL, 0, NULL, 0                                                           \
    }

struct command_line {
    enum log_level log_level; /* LOG_LEVEL_INFO unless it was given */
    bool help, version;
};

/* Takes the value of one option of the program's own; NULL when it has none.  DRV_EINVAL, with
 * `err` set. */
typedef int command_line_take(void *data, int option, const char *value, struct error *err);

/* DRV_EINVAL with one line that says what is wrong.  May be called again.  With --help or
 * --version arguments that are no options are no error. */
MUST_CHECK int command_line_parse(struct command_line *out, int argc, char **argv,
                                  const struct option *options, command_line_take *take,
                                  void *data, struct error *err);

/* Prints the help, or the version, if that was asked for.  True: the program is done. */
bool command_line_answered(const struct command_line *line, const char *program,
                           const char *version, const char *help);

#define COMMAND_LINE_EXIT 2 /* the options are wrong */

/* Says on standard error what is wrong with the options.  Returns COMMAND_LINE_EXIT. */
int command_line_wrong(const char *program, const struct error *err);

#endif
