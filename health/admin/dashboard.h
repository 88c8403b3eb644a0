/* dashboard.h - the page for people at the root of the admin listener: dashboard.html, which
 * draws what /nodes says.  CMake makes the array of the file. */
#ifndef DROVER_HEALTH_DASHBOARD_H
#define DROVER_HEALTH_DASHBOARD_H

#include <stddef.h>

extern const unsigned char dashboard_page[]; /* UTF-8 */
extern const size_t dashboard_page_bytes;

/* The page needs no other place: a script in a node's name cannot call home. */
#define DASHBOARD_POLICY                                                          \
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " \
    "connect-src 'self'; frame-ancestors 'none'"

#endif
