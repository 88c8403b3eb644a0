/* config_find.c - which configuration a program without -c means. */
#include "base/config/config_find.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_doc.h"
#include "base/config/config_expand.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/text/buf.h"

#define SYSTEM_FILE        "/etc/drover/drover.yaml"
#define SYSTEM_RUNTIME_DIR "/run/drover"

unsigned config_find_places(char out[CONFIG_FIND_MAX][CONFIG_FIND_BYTES])
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    unsigned n = 0;
    int w = 0;

    if (geteuid() != 0 && xdg != NULL && xdg[0] == '/')
        w = snprintf(out[n], CONFIG_FIND_BYTES, "%s/drover/drover.yaml", xdg);
    else if (geteuid() != 0 && home != NULL && home[0] == '/')
        w = snprintf(out[n], CONFIG_FIND_BYTES, "%s/.config/drover/drover.yaml", home);
    if (w > 0 && w < CONFIG_FIND_BYTES)
        n++;
    (void)snprintf(out[n++], CONFIG_FIND_BYTES, SYSTEM_FILE);
    return n;
}

bool config_find(char out[CONFIG_FIND_BYTES])
{
    char places[CONFIG_FIND_MAX][CONFIG_FIND_BYTES];
    unsigned n = config_find_places(places);
    struct stat st;

    out[0] = '\0';
    for (unsigned i = 0; i < n; i++) {
        /* One in a directory that is closed to us may be there: reading it will say so. */
        if (stat(places[i], &st) == 0 || (errno != ENOENT && errno != ENOTDIR)) {
            (void)strlcpy(out, places[i], CONFIG_FIND_BYTES);
            return true;
        }
    }
    return false;
}

/* The runtime_dir of a file; "" = it has none. */
static void runtime_dir_of(char *out, size_t cap, const char *path)
{
    struct buf text = BUF_INIT;
    const struct doc_item *item = NULL;
    struct doc *doc = NULL;
    struct error err;

    if (config_read(&text, path, &err) == 0 &&
        doc_parse(&doc, (const char *)buf_head(&text), buf_size(&text), path, &err) == 0)
        item = doc_find(doc, "runtime_dir");
    out[0] = '\0';
    if (item != NULL && item->kind == DOC_SCALAR &&
        config_expand_path(doc, (struct doc_item *)(uintptr_t)item, &err) == 0 &&
        strlcpy(out, item->text, cap) >= cap)
        out[0] = '\0';
    doc_destroy(doc);
    buf_finish(&text);
}

static bool has_scoreboard(const char *dir)
{
    char path[CONFIG_FIND_BYTES];

    (void)snprintf(path, sizeof(path), "%s/scoreboard", dir);
    return access(path, F_OK) == 0;
}

void config_find_runtime_dir(char *out, size_t cap)
{
    char file[CONFIG_FIND_BYTES];

    out[0] = '\0';
    if (config_find(file))
        runtime_dir_of(out, cap, file);
    if (out[0] != '\0')
        return;
    config_default_runtime_dir(out, cap);
    if (!has_scoreboard(out) && has_scoreboard(SYSTEM_RUNTIME_DIR))
        (void)strlcpy(out, SYSTEM_RUNTIME_DIR, cap);
}
