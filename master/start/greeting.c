/* greeting.c - what a drover that was started without -c decided. */
#include "master/start/greeting.h"

#include <stddef.h>
#include <string.h>

#include "base/config/config.h"
#include "base/config/config_find.h"
#include "base/text/buf.h"

void greeting_no_file(struct buf *out)
{
    char places[CONFIG_FIND_MAX][CONFIG_FIND_BYTES];
    unsigned n = config_find_places(places);

    buf_str(out, "no configuration file (looked for ");
    for (unsigned i = 0; i < n; i++)
        buf_printf(out, "%s%s", i == 0 ? "" : " and ", places[i]);
    buf_str(out, ")");
}

/* "http://127.0.0.1:8080/", or a Unix socket as it is. */
static void add_address(struct buf *out, const char *what, const char *address,
                        const struct config_tls *tls)
{
    if (strncmp(address, "unix:", 5) == 0)
        buf_printf(out, "%s %s", what, address);
    else
        buf_printf(out, "%s http%s://%s/", what, tls->enabled ? "s" : "", address);
}

static void add_next(struct buf *out, const char *path, const struct config *config)
{
    char places[CONFIG_FIND_MAX][CONFIG_FIND_BYTES];

    if (config->registry.listen.address != NULL) {
        buf_printf(out, "next: on each machine with an engine: drover-node --engine URL "
                        "--coordinator HOST:PORT --token-file FILE; then droverctl status\n");
        return;
    }
    if (config->nodes_count != 0) {
        buf_str(out, "next: droverctl status\n");
        return;
    }
    (void)config_find_places(places);
    buf_printf(
        out,
        "next: there are no nodes yet; %s %s with 'registry', where nodes join, or 'nodes' "
        "(a beginning: drover.example.yaml), then start drover again\n",
        path == NULL ? "write" : "complete", path == NULL ? places[0] : path);
}

void greeting(struct buf *out, const char *path, const struct config *config)
{
    if (path == NULL) {
        greeting_no_file(out);
        buf_str(out, ": everything has its default\n");
    } else {
        buf_printf(out, "configuration %s\n", path);
    }
    add_address(out, "API", config->api.address, &config->api.tls);
    add_address(out, "; operators", config->admin.address, &config->admin.tls);
    if (config->registry.listen.address == NULL)
        buf_str(out, "; nodes cannot join by themselves (no registry)\n");
    else
        buf_printf(out, "; nodes join at %s\n", config->registry.listen.address);
    buf_printf(out, "directories: %s while it runs, %s for what outlives it\n",
               config->runtime_dir, config->state_dir[0] == '\0' ? "none" : config->state_dir);
    add_next(out, path, config);
}
