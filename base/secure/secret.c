/* secret.c - see secret.h. */
#include "base/secure/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

void secret_free(char *text)
{
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    free(text);
}

/* Fills `text` and returns how many bytes came; `cap` when there are at least so many. */
static int read_up_to(size_t *n, char *text, size_t cap, int fd, struct error *err)
{
    ssize_t got;

    *n = 0;
    while (*n < cap) {
        got = read(fd, text + *n, cap - *n);
        if (got == -1 && errno == EINTR)
            continue;
        if (got == -1)
            return error_sys(err, "read");
        if (got == 0)
            return 0;
        *n += (size_t)got;
    }
    return 0;
}

int secret_read(char *text, size_t cap, const char *path, struct error *err)
{
    struct stat st;
    size_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

    if (fd == -1)
        return error_sys(err, "open");
    if (fstat(fd, &st) == 0 && (st.st_mode & S_IROTH) != 0)
        log_warn("event=secret_file_readable path=%s hint=\"every user of this host can read "
                 "it: chmod 600 it\"",
                 log_quote(path));
    rc = read_up_to(&n, text, cap, fd, err);
    (void)close(fd);
    if (rc == 0 && n == cap)
        rc = error_set(err, DRV_EINVAL, "the file has more than %zu bytes", cap - 1);
    if (rc == 0 && memchr(text, '\0', n) != NULL)
        rc = error_set(err, DRV_EINVAL, "the file is not a text");
    if (rc == 0)
        text[n] = '\0';
    else
        explicit_bzero(text, cap);
    return rc;
}
