/* Linked into tholed_nosync with --wrap: files are never synced. That daemon exists only to show
 * that test_power_loss notices. */
int __wrap_fdatasync(int fd);

int __wrap_fdatasync(int fd)
{
    (void)fd;
    return 0;
}
