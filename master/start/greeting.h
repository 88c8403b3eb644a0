/* greeting.h - what a drover that was started without -c decided, for the person before it. */
#ifndef DROVER_MASTER_GREETING_H
#define DROVER_MASTER_GREETING_H

struct buf;
struct config;

/* Appends plain lines: which file, or none; addresses; directories; what to do next.  `path`
 * NULL: there is no file. */
void greeting(struct buf *out, const char *path, const struct config *config);

/* Appends "no configuration file (looked for A and B)". */
void greeting_no_file(struct buf *out);

#endif
