/* file_path.c - where a path that a person wrote leads. */
#include "base/config/file_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

/* DIR/REST; `dir` "/" has its slash. */
static int join(char *out, size_t cap, const char *dir, size_t dir_len, const char *rest,
                struct error *err)
{
    const char *slash = rest[0] == '\0' || (dir_len > 0 && dir[dir_len - 1] == '/') ? "" : "/";
    int n = snprintf(out, cap, "%.*s%s%s", (int)dir_len, dir, slash, rest);

    if (n < 0 || (size_t)n >= cap)
        return error_set(err, DRV_EINVAL, "the path is too long");
    return 0;
}

/* A relative path in a directory. */
static int below(char *out, size_t cap, const char *dir, const char *path, struct error *err)
{
    while (strncmp(path, "./", 2) == 0)
        path += 2 + strspn(path + 2, "/");
    return join(out, cap, dir, strlen(dir), strcmp(path, ".") == 0 ? "" : path, err);
}

static int home_path(char *out, size_t cap, const char *rest, struct error *err)
{
    const char *home = getenv("HOME");

    if (home == NULL || home[0] == '\0')
        return error_set(err, DRV_EINVAL,
                         "'~' needs the variable HOME, which is not set; write the directory");
    if (home[0] != '/')
        return error_set(err, DRV_EINVAL,
                         "'~' is the variable HOME, which is no absolute path; write the "
                         "directory");
    return join(out, cap, home, strlen(home), rest, err);
}

int file_path(char *out, size_t cap, const char *base, const char *text, struct error *err)
{
    if (text[0] == '~' && text[1] != '\0' && text[1] != '/')
        return error_set(
            err, DRV_EINVAL,
            "'~' with a user's name is not understood; write the directory (a file "
            "whose name begins so: ./~)");
    if (text[0] == '~')
        return home_path(out, cap, text + 1 + strspn(text + 1, "/"), err);
    if (text[0] == '/' || text[0] == '\0' || base == NULL)
        return join(out, cap, text, strlen(text), "", err);
    return below(out, cap, base, text, err);
}

int file_path_base(char *out, size_t cap, const char *file, struct error *err)
{
    const char *slash = strrchr(file, '/');
    size_t n = slash == NULL ? 0 : slash == file ? 1 : (size_t)(slash - file);
    char cwd[FILE_PATH_BYTES], dir[FILE_PATH_BYTES];

    if (n >= sizeof(dir))
        return error_set(err, DRV_EINVAL, "the path is too long");
    if (file[0] == '/')
        return join(out, cap, file, n, "", err);
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        return error_sys(err, "working directory");
    memcpy(dir, file, n);
    dir[n] = '\0';
    return below(out, cap, cwd, dir, err);
}
