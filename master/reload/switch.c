/* switch.c - a new generation of workers takes the seats, or the old one gets them back. */
#include "master/reload/switch.h"

#include <assert.h>
#include <signal.h>

#include "base/clock.h"
#include "base/error.h"
#include "master/supervise_private.h"

int switch_begin(struct supervisor *sup, const struct config *next, unsigned count,
                 struct error *err)
{
    int rc;

    assert(count <= SUPERVISE_MAX_WORKERS);
    if (sup->switching || sup->order != ORDER_SERVE)
        return error_set(err, DRV_EAGAIN, "drover is stopping");
    if (supervise_workers_alive(sup) + count > RUNTIME_MAX_WORKERS)
        return error_set(err, DRV_EAGAIN, "earlier workers are still finishing");
    rc = supervise_take_room(sup, count, err);
    if (rc != 0)
        return rc;
    sup->switch_old_count = sup->seats_count;
    sup->switch_from = sup->generation;
    sup->switch_config = sup->config;
    sup->switch_failed = false;
    sup->switching = true;
    sup->switch_mono_us = clock_mono_us();
    sup->generation = ++sup->last_generation;
    sup->config = next;
    for (unsigned i = 0; i < sup->seats_count; i++)
        sup->seats[i] = (struct seat){.previous = sup->seats[i].child};
    supervise_set_workers(sup, count);
    return 0;
}

enum switch_state switch_state(const struct supervisor *sup)
{
    if (sup->switch_failed)
        return SWITCH_FAILED;
    return supervise_serving(sup) == supervise_workers(sup) ? SWITCH_READY : SWITCH_WAITING;
}

void switch_commit(struct supervisor *sup)
{
    uint64_t now_mono_us = clock_mono_us();

    supervise_hurry(sup, sup->switch_from);
    for (unsigned i = 0; i < sup->seats_count; i++) {
        supervise_order(sup, sup->seats[i].previous, ORDER_FINISH, now_mono_us);
        sup->seats[i].previous = NULL;
    }
    if (sup->health.child != NULL)
        (void)kill(sup->health.child->pid, SIGHUP);
    sup->switching = false;
    supervise_drop_seats(sup, sup->switch_target);
    supervise_publish(sup);
}

void switch_rollback(struct supervisor *sup, const struct config *config)
{
    uint64_t now_mono_us = clock_mono_us();

    sup->config = config;
    sup->generation = sup->switch_from;
    /* One that was born meanwhile writes to the log that the master had opened for the reload.
     */
    if (sup->health.child != NULL && sup->health.child->started_mono_us >= sup->switch_mono_us)
        (void)kill(sup->health.child->pid, SIGHUP);
    for (unsigned i = 0; i < sup->seats_count; i++) {
        struct seat *seat = &sup->seats[i];

        supervise_order(sup, seat->child, ORDER_STOP, now_mono_us);
        *seat = (struct seat){.child = seat->previous};
    }
    sup->switching = false;
    sup->switch_failed = false;
    supervise_drop_seats(sup, sup->switch_old_count);
    supervise_publish(sup);
}
