/* Linked into tholed_nosync with --wrap: RocksDB writes are never synced. That daemon exists only to
 * show that test_power_loss notices. */
void __real_rocksdb_writeoptions_set_sync(void *options, unsigned char sync);
void __wrap_rocksdb_writeoptions_set_sync(void *options, unsigned char sync);

void __wrap_rocksdb_writeoptions_set_sync(void *options, unsigned char sync)
{
    (void)sync;
    __real_rocksdb_writeoptions_set_sync(options, 0);
}
