/* Linked into tholed_nosync with --wrap: files are never synced. That daemon proves that
 * test_power_loss detects missing syncs. */
int __wrap_fdatasync(int fd);

int __wrap_fdatasync(int fd)
{
    (void)fd;
    return 0;
}
